"""What tune and train share: a job, fitting it, and writing its course down."""
