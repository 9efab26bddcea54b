package broker

import "slices"

// A fifo is a queue in a slice. The zero fifo is empty; whoever embeds it
// bounds it.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

// front returns the oldest item of a queue that is not empty.
func (f *fifo[T]) front() *T { return &f.items[f.head] }

// at returns the i-th oldest item.
func (f *fifo[T]) at(i int) *T { return &f.items[f.head+i] }

// remove takes the i-th oldest item out.
func (f *fifo[T]) remove(i int) {
	if i == 0 {
		f.pop()
		return
	}
	f.items = slices.Delete(f.items, f.head+i, f.head+i+1)
}

// pop takes the oldest item off a queue that is not empty.
func (f *fifo[T]) pop() T {
	var zero T
	v := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	switch {
	case f.head == len(f.items):
		f.items, f.head = f.items[:0], 0
	case f.head >= 256 && f.head*2 >= len(f.items):
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return v
}
