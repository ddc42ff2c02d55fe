"""Kafka: settings, clients, topics, sending, transactions.

Import from the modules: settings, clients, topics, sending, transactions, tail.
"""
