"""Kafka: how to reach it, the clients, the topics, transactions, and a real broker on this machine.

Import from the modules: settings, clients, topics, sending, transactions, tail, local.
"""
