"""Servers on this machine: PostgreSQL, an S3 server and MLflow in front of both."""
