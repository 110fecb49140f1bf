"""How closely the integers follow float32 on real models: `python -m benchmarks.fidelity`."""
