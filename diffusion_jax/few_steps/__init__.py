"""Few-step models: flow maps, consistency, distillation."""
