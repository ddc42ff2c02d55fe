"""CodecFlow: questions about live video, answered by vision-language models on Apache Kafka."""

__version__ = "0.1.0"
