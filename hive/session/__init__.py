"""What is said between a coordinator and its peers: two sessions without sockets and clocks.

A session hears what happened and answers with effects; its host, a program with sockets or a
simulator in virtual time, carries them out.
"""
