package devices

import "context"

// An outbox hands batches to a receiver without ever waiting for it. It keeps
// a bounded number; when full the oldest is thrown away, so that what the
// receiver gets after a pause is what holds now. One goroutine puts, another
// runs send.
type outbox struct {
	kept chan *Batch
	out  chan<- *Batch
}

// newOutbox keeps up to size batches besides what out itself can hold and the
// one that waits to enter it.
func newOutbox(size int, out chan<- *Batch) *outbox {
	return &outbox{kept: make(chan *Batch, size), out: out}
}

// put takes b over. It returns the device of the batch that had to go for it,
// nil if there was room.
func (o *outbox) put(b *Batch) (lost *Device) {
	for {
		select {
		case o.kept <- b:
			return lost
		default:
		}
		select {
		case old := <-o.kept:
			lost = old.Device
			old.Release()
		default: // send took one meanwhile
		}
	}
}

// send passes batches on until ctx is done; then those that out still has
// room for, and releases the others.
func (o *outbox) send(ctx context.Context) {
	for {
		select {
		case b := <-o.kept:
			select {
			case o.out <- b:
			case <-ctx.Done():
				o.flush(b)
				return
			}
		case <-ctx.Done():
			o.flush(nil)
			return
		}
	}
}

func (o *outbox) flush(b *Batch) {
	for {
		if b != nil {
			select {
			case o.out <- b:
			default:
				b.Release()
			}
		}
		select {
		case b = <-o.kept:
		default:
			return
		}
	}
}
