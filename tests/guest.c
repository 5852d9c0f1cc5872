/* A program for arm64 that plays a set-user-ID program, and an attacker's. It does what its arguments
   say, one word after the other; without any, `ids` and `args`. It is built twice: as `guest`, and as
   `evil`, which is what nobody but the attacker would run.

   ids                 its NAME, real/effective user and group, and whether the kernel calls the run secure
   caps                its effective capabilities
   core                the soft and the hard limit of core files
   fds                 which descriptors are open
   env                 its environment, each string with a NUL behind it
   args, count         its arguments, or how many there are; those that follow are no words
   root                becomes root for good
   swap NAME TARGET    makes NAME a symlink to TARGET
   crash               ends by SIGSEGV
   exec PATH ARG...    executes PATH; without ARG there is not even argv[0]
   fexec PATH ARG...   executes PATH by a descriptor
   memfd PATH ARG...   executes a copy of PATH in memory */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

static void ids(void)
{
	printf(NAME " %d/%d %d/%d secure=%lu\n", getuid(), geteuid(), getgid(), getegid(), getauxval(AT_SECURE));
}

static void caps(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		err(1, "capget");
	printf("caps %x\n", data[0].effective);
}

static void core(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_CORE, &limit);
	printf("core %ld/%ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
}

static void fds(void)
{
	int fd;

	printf("fds");
	for (fd = 0; fd < 100; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf(" %d", fd);
	printf("\n");
}

static void args(char **argv)
{
	for (; *argv; argv++)
		printf("[%s]", *argv);
	printf("\n");
}

static void env(void)
{
	char **string;

	for (string = environ; *string; string++)
		fwrite(*string, strlen(*string) + 1, 1, stdout);
}

static void swap(const char *name, const char *target)
{
	char other[4096];

	snprintf(other, sizeof other, "%s.new", name);
	if (symlink(target, other) || rename(other, name))
		err(1, "%s", name);
}

static void execute(const char *how, const char *path, char **argv)
{
	int file, copy;

	fflush(stdout);
	if (!strcmp(how, "exec")) {
		/* Not the C library's, which wants an argv[0]. */
		syscall(SYS_execve, path, argv, environ);
	} else {
		file = open(path, O_RDONLY);
		if (file >= 0 && !strcmp(how, "memfd")) {
			copy = memfd_create("program", 0);
			while (sendfile(copy, file, NULL, 1 << 20) > 0)
				;
			file = copy;
		}
		fexecve(file, argv, environ);
	}
	err(1, "%s %s", how, path);
}

int main(int argc, char **argv)
{
	char **word;

	if (argc < 2) {
		ids();
		args(argv);
	}
	for (word = argv + 1; word < argv + argc; word++) {
		if (!strcmp(*word, "ids"))
			ids();
		else if (!strcmp(*word, "caps"))
			caps();
		else if (!strcmp(*word, "core"))
			core();
		else if (!strcmp(*word, "fds"))
			fds();
		else if (!strcmp(*word, "env"))
			env();
		else if (!strcmp(*word, "root")) {
			if (setresuid(0, 0, 0))
				err(1, "root");
		} else if (!strcmp(*word, "crash"))
			fflush(stdout), raise(SIGSEGV);
		else if (!strcmp(*word, "args"))
			return args(argv), 0;
		else if (!strcmp(*word, "count"))
			return printf("%d\n", argc), 0;
		else if (!strcmp(*word, "swap") && word + 2 < argv + argc)
			swap(word[1], word[2]), word += 2;
		else if ((!strcmp(*word, "exec") || !strcmp(*word, "fexec") || !strcmp(*word, "memfd")) && word[1])
			execute(word[0], word[1], word + 2);
	}
	return 0;
}
