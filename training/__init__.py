"""Makes adapters: curation, dataset, QLoRA, gate, registry, runs, schedule."""
