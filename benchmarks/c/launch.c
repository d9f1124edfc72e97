// launch COMMAND ARG...: run a command and write the peak resident set of it and of the
// descendants it waited for, in KiB, as a decimal line to descriptor 3. Its exit status
// is the command's.
//
// A static C program, because a process begins its life with the peak resident set of the
// process that vforked it: started from the Go harness nothing would ever measure less
// than the harness itself.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2)
		return 125;
	fcntl(3, F_SETFD, FD_CLOEXEC);
	pid_t pid = vfork();
	if (pid == 0) {
		execv(argv[1], argv + 1);
		_exit(127);
	}
	if (pid < 0)
		return 126;
	int status;
	struct rusage usage;
	if (wait4(pid, &status, 0, &usage) != pid)
		return 126;
	dprintf(3, "%ld\n", usage.ru_maxrss);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
