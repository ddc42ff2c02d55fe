"""Developer tools: benchmarks, evaluation, the demo and its model. The product's services import nothing from here."""
