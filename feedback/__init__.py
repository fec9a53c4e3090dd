"""What people said about answers: conversations, turns, ratings, corrections, users."""
