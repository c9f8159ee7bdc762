"""Running all stages: here (`run`), as SLURM jobs (`slurm`), and what they would need (`doctor`)."""
