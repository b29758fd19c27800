"""`python -m specs` writes job.schema.json again from the kinds in the folder, and nothing else."""

from specs.schemas import kinds, write_job_schema

if __name__ == "__main__":
    print(f"{write_job_schema().name}: {', '.join(kinds())}")
