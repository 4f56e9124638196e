"""The adapters to the brokers; nothing else in the package talks to a third party."""
