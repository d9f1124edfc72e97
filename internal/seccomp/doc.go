package seccomp
