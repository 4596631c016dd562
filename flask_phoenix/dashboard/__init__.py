"""The dashboard: a page that shows live what an app does, on all of its nodes."""
