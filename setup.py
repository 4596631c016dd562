"""The package's metadata; the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="flask_phoenix",
    version="0.1.0",
    description="A Flask extension that makes a Flask app a Phoenix Channels server, on gevent.",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="flask_phoenix authors",
    license="MIT",
    license_files=["LICENSE"],
    project_urls={"Phoenix Channels": "https://hexdocs.pm/phoenix/channels.html"},
    keywords="flask phoenix channels websocket realtime gevent pubsub",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: Flask",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        # Those that the tests have passed on, wholly or in part.
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Internet :: WWW/HTTP :: WSGI",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["flask_phoenix", "flask_phoenix.*"]),
    package_data={
        "flask_phoenix": ["py.typed", "static/*", "cli/templates/*/*", "dashboard/static/*", "dashboard/templates/*/*"]
    },
    python_requires=">=3.10",
    install_requires=[
        # Each oldest version is one that the tests pass on; a comment says what is wrong below it.
        "blinker>=1.6.2",  # Flask asks for it
        "flask>=2.3.3",  # older ones ask Werkzeug for what it no longer has
        "gevent>=23.9.1",  # older servers can be made to take one request for another (CVE-2023-41419)
        "gevent-websocket>=0.10.1",
        "itsdangerous>=2.1.2",  # Flask asks for it
        "msgspec>=0.19",  # older ones misread some integers of more than 64 bits
        "ujson>=5.12.1",  # older ones leak memory on input that a client chooses (CVE-2026-32874, CVE-2026-44660)
        "websockets>=12.0",  # older ones lack websockets.frames.CloseCode
        "werkzeug>=3.0.3,<4",  # older debuggers trust every host (CVE-2024-34069); its reloader is private
    ],
    extras_require={
        "redis": ["redis>=5.0.1"],  # 5.0.0 leaves sockets open
        "metrics": ["prometheus-client>=0.20"],
        "otel": ["opentelemetry-api>=1.20"],
        "top": ["rich>=13.0"],
        "docs": ["furo>=2024.8.6", "myst-parser>=4.0", "pytest>=8.4", "redis>=5.0.1", "sphinx>=8.1"],
        "dev": [
            "celery>=5.4",
            "crossplane>=0.5.8",
            "flask[async]>=2.3.3",
            "flask-login>=0.6.3",
            "flask-seasurf>=2.0",
            "flask-sock>=0.7",
            "flask-sqlalchemy>=3.1",
            "flask-wtf>=1.2",
            "furo>=2024.8.6",
            "gunicorn>=27.0",
            "hypothesis>=6.112",
            "jsonschema>=4.23",
            "mypy==2.4.*",
            "myst-parser>=4.0",
            "pycrdt>=0.14",
            "pydantic>=2.11",
            "pyjwt>=2.10",
            "opentelemetry-sdk>=1.20",
            "prometheus-client>=0.20",
            "pygments>=2.18",
            "pyright>=1.1.410",
            "pytest>=8.4",
            "pytest-asyncio>=1.2",
            "pytest-cov>=7.0",
            "pytest-flask>=1.3",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "pyyaml>=6.0.1",
            "redis>=5.0.1",
            "rich>=13.0",
            "ruff==0.17.*",
            "setuptools>=77",
            "sphinx>=8.1",
            "sqlalchemy>=2.0",
            "tox>=4.25",
            "tox-uv>=1.25",
            "types-gevent>=26.9",
            "types-greenlet>=3.5",
            "types-pygments>=2.18",
            "types-ujson>=5.10",
            "uv>=0.5",
            "waitress>=3.0",
        ],
    },
    entry_points={
        "flask.commands": [
            "run = flask_phoenix.cli.run:run",
            "phoenix = flask_phoenix.cli.commands:phoenix",
        ],
        "pytest11": ["flask_phoenix = flask_phoenix.pytest_plugin"],
        "flask_phoenix.adapters": [
            "workers = flask_phoenix.pubsub.unix.adapter:WorkersAdapter",
            "redis = flask_phoenix.pubsub.redis.adapter:RedisAdapter [redis]",
            "rediss = flask_phoenix.pubsub.redis.adapter:RedisAdapter [redis]",
            "redis+cluster = flask_phoenix.pubsub.redis.adapter:RedisAdapter [redis]",
            "rediss+cluster = flask_phoenix.pubsub.redis.adapter:RedisAdapter [redis]",
            "unix = flask_phoenix.pubsub.redis.adapter:RedisAdapter [redis]",
        ],
        "flask_phoenix.publishers": [
            "workers = flask_phoenix.pubsub.unix.publisher:WorkersPublisher",
            "redis = flask_phoenix.pubsub.redis.publisher:RedisPublisher [redis]",
            "rediss = flask_phoenix.pubsub.redis.publisher:RedisPublisher [redis]",
            "redis+cluster = flask_phoenix.pubsub.redis.publisher:RedisPublisher [redis]",
            "rediss+cluster = flask_phoenix.pubsub.redis.publisher:RedisPublisher [redis]",
            "unix = flask_phoenix.pubsub.redis.publisher:RedisPublisher [redis]",
        ],
    },
)
