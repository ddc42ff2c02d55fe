"""`codecflow demo`: the whole path on this machine, its services as separate processes that meet only in Kafka."""
