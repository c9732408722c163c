"""
Private RabbitMQ and PostgreSQL servers for tests and the demo, each in a temporary folder that goes when its owner does.

Standard library only, and synchronous: asynchronous callers use :func:`asyncio.to_thread`.
"""
