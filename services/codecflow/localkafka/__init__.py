"""A real Apache Kafka broker on this machine, for development, tests and the demo (the extra `local`)."""
