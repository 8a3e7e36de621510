"""What goes to and fro between kimiflow and the tools next door: real files, and the sandbox on a real socket."""
