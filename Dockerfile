# The example app, as docs/howto/docker.md describes it.

FROM node:22-slim AS client
WORKDIR /client
COPY example_app/package.json example_app/package-lock.json ./
RUN npm ci --no-audit --no-fund

FROM python:3.13-slim AS wheel
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY flask_phoenix flask_phoenix
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
WORKDIR /srv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[redis]" 'gunicorn[gevent]>=27' 'pygments>=2.18'
COPY example_app example_app
COPY --from=client /client/node_modules example_app/node_modules
RUN useradd --uid 10001 app && install --directory --owner=app /data
USER 10001
ENV PYTHONUNBUFFERED=1 FLASK_DATABASE=/data/chat.db
EXPOSE 8000
# In the form of a list: gunicorn itself gets the SIGTERM of `docker stop`, and drains.
CMD ["gunicorn", "--worker-class=gevent", "--workers=2", "--worker-connections=5000", "--worker-tmp-dir=/dev/shm", \
     "--no-control-socket", "--bind=0.0.0.0:8000", "example_app:create_app()"]
