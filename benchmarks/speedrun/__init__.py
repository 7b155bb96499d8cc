"""A speedrun of the main job, and what each trick does to it: README.md."""
