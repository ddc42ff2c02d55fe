"""`codecflow eval`: what pruning and refresh cost in answers, on labelled clips through the product's own pipeline."""
