"""
The RabbitMQ rim: deliveries in, acknowledgements and dead letters out, the topology declared.

``frames`` and ``properties`` are pure and read bytes; ``tap`` puts them below the AMQP library;
``deliveries``, ``dead_letters`` and ``declare`` talk to the broker.
"""
