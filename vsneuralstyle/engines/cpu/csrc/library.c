/* What the library needs of the process: OpenMP's workers, and AMX's registers. */

#include "parallel.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
long syscall(long number, ...); /* unistd.h has another `vec_select` beside it */
#endif

int (*thread_number)(void);

/* number: omp_get_thread_num of the runtime whose GOMP_parallel the kernels get. Without it they
 * compute by the calling thread alone. */
EXPORT void set_thread_number(int (*number)(void)) {
    thread_number = number;
}

/* Whether this library can do what it was built to: the system must be asked for AMX's registers,
 * once. */
EXPORT int permitted(void) {
#if defined(__AMX_BF16__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 1;
#endif
}
