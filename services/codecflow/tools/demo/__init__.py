"""`codecflow demo`: the whole pipeline on this machine, its services as separate processes that communicate only via
Kafka."""
