"""How both ports are reached: who may come in, what a connection may do, TLS, and how to dial."""
