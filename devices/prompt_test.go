package devices

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Where the system allows it the owner of a port runs before others, and its
// thread is an ordinary one again afterwards.
func TestBeFirstIsUndone(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		back, err := beFirst()
		a, _ := unix.SchedGetAttr(0, 0)
		if wanted := err == nil; wanted != (a.Policy == unix.SCHED_RR) {
			t.Errorf("policy %d, %v", a.Policy, err)
		}
		t.Log(err)
		back()
		if a, _ := unix.SchedGetAttr(0, 0); a.Policy == unix.SCHED_RR {
			t.Error("it is not undone")
		}
	}()
	<-done
}
