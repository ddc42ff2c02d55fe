"""`codecflow eval`: the effect of pruning and refresh on answers, on labelled clips through the product's own pipeline."""
