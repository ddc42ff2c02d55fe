from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import check_topics


def test_created_topics_pass_the_check(kafka_settings: KafkaSettings) -> None:
    assert check_topics(kafka_settings) == 3
