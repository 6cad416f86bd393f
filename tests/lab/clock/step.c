/* Preloaded into a process, this steps its wall clock by the nanoseconds in a file (TANDEM_LAB_CLOCK: 8 bytes, native int64).
   The monotonic clock is left alone, as it is when a real host's clock is set. The file is mapped, so a step is seen at once. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *step_ns;

__attribute__((constructor)) static void map_step(void) {
    const char *path = getenv("TANDEM_LAB_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *step_ns, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) step_ns = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed || !step_ns || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    int64_t stepped = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *step_ns;
    now->tv_sec = stepped / 1000000000;
    now->tv_nsec = stepped % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec at;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec at;
    if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}
