"""Developer tools: benchmarks, evaluation, the demo and its model. The product's services do not import them."""
