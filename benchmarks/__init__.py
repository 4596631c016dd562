"""What flask_phoenix costs, beside what people would take instead: ``make bench``."""
