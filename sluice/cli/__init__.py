"""What a person types: up, demo, chat, get, doctor, and the processes themselves."""
