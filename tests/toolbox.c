/* Plays the program that Toolbx's cross-architecture containers begin with: the system calls of its
   init-container around binfmt_misc, in their order. toolbox … init-container … --arch-emulator-path PATH
   WAY says how it mounts: syscall, command (the image's own mount), api. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLACE "/proc/sys/fs/binfmt_misc"
static const char pattern[] =
	":qemu-aarch64:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00"
	":\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff";

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void run(char **argv)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execv(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	must(waitpid(pid, &status, 0) == pid && status == 0, argv[0]);
}

int main(int argc, char **argv)
{
	char handler[4096];
	int length;
	char *uname[] = { "/bin/uname", "-m", NULL };
	char *mount_command[] = { "/bin/mount", "-t", "binfmt_misc", "binfmt_misc", PLACE, NULL };
	char *forever[] = { "/bin/sleep", "1000", NULL };
	const char *way = getenv("WAY");
	int context, mounted, file;

	run(uname); /* something of the image, before any handler of its own */
	if (!strcmp(way, "syscall")) {
		must(!mount("binfmt_misc", PLACE, "binfmt_misc", 0, NULL), "mount");
	} else if (!strcmp(way, "command")) {
		run(mount_command);
	} else {
		context = syscall(SYS_fsopen, "binfmt_misc", 0);
		must(context >= 0, "fsopen");
		must(!syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "fsconfig");
		mounted = syscall(SYS_fsmount, context, 0, 0);
		must(mounted >= 0, "fsmount");
		must(!syscall(SYS_move_mount, mounted, "", AT_FDCWD, PLACE, MOVE_MOUNT_F_EMPTY_PATH), "move_mount");
	}
	file = open(PLACE "/register", O_WRONLY);
	must(file >= 0, "open " PLACE "/register");
	length = snprintf(handler, sizeof handler, "%s:%s:FC", pattern, argv[argc - 1]);
	must(write(file, handler, length) == length, "register");
	must(!access(PLACE "/qemu-aarch64", F_OK), PLACE "/qemu-aarch64");
	run(uname);
	puts("ready");
	fflush(stdout);
	execv(forever[0], forever);
	perror(forever[0]);
	return 1;
}
