-- Sinks that deliver to message brokers.

INSERT INTO tide.sink_types (name, description) VALUES
    ('nats',     'NATS JetStream, acknowledged and de-duplicated by its message id'),
    ('redis',    'Redis Streams, appended once by a script'),
    ('rabbitmq', 'RabbitMQ by AMQP 0-9-1, persistent and confirmed');
