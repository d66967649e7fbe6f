"""The processes between the daemon and a task: launcher, shim, and the task's first steps.

Only the standard library is imported here, and of that as little as possible: the launcher is started with
``python -I -S``, and every shim is a fork of it, so each module loaded is memory of every task's shim.

* ``launcher`` runs beside the daemon, single-threaded, and forks a shim per start order. It ends with the
  daemon; shims do not.
* ``supervise`` is the shim: it holds the task's lock, stamps the log, waits, writes the exit file.
* ``inner`` runs in the task's own namespaces up to the ``execve`` of its command; ``rootfs`` mounts,
  ``accounts`` looks users up, ``kernel`` names the system calls.
"""
