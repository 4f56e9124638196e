"""Tools for testing against aioregistry: brokers to start, contract checks, simulation."""
