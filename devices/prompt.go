package devices

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix" // sched_setattr
)

// A Prompter is a Line that may want its goroutine to run at once whenever it
// can: on a serial line the bus stands still until then. A computer that is busy
// with other programs otherwise lets it wait for milliseconds, which is more than
// a request takes at 115200 baud.
type Prompter interface {
	Line
	Prompt() bool
}

// beFirst gives the calling goroutine a thread of its own that runs before all
// ordinary ones, as far as the system allows it: the goroutine sleeps but for the
// few hundred microseconds around each request. It is worth something only where
// all cores are taken: half as many requests again at 115200 baud, for a fifth more
// processor time. The caller calls back to undo it.
func beFirst() (back func(), err error) {
	runtime.LockOSThread() // the runtime makes no other thread from such a one
	if err := setPolicy(unix.SCHED_RR, 1); err != nil {
		runtime.UnlockOSThread()
		return func() {}, fmt.Errorf("real-time priority for a serial line: %w; LimitRTPRIO=1 in the unit of a service allows it", err)
	}
	return func() {
		if setPolicy(unix.SCHED_NORMAL, 0) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine
	}, nil
}

// resetOnFork keeps what is started from the thread from being like it
// (SCHED_FLAG_RESET_ON_FORK).
const resetOnFork = 1

func setPolicy(policy, priority uint32) error {
	a := unix.SchedAttr{Policy: policy, Priority: priority, Flags: resetOnFork}
	a.Size = uint32(unsafe.Sizeof(a))
	return unix.SchedSetAttr(0, &a, 0)
}
