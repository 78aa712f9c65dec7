"""What a run teaches: its own first steps as a lesson, and questions on the lessons in docs/."""
