"""What a simulated study is made of, and its random generators."""
