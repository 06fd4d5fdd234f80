"""What is said between a coordinator and its peers: two sessions without sockets and clocks.

A session is told what happened and answers with effects; whoever calls it, a program with sockets
or a simulator in virtual time, carries them out.
"""
