"""The ground floor: frames, channels and the client of the control socket. Imports no other room."""
