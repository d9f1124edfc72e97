package stream

import (
	"io"
	"sync"
)

// Queue is the input that nobody has read yet. Without it a program that reads
// nothing would keep us from seeing that the client is gone, or its window another
// one. The zero value is an empty one.
type Queue struct {
	mu    sync.Mutex
	cond  *sync.Cond
	parts [][]byte
	size  int
	err   error // what Read gives when there is nothing more
}

// maxQueue is how much may wait.
const maxQueue = 1 << 20

func (q *Queue) lock() {
	q.mu.Lock()
	if q.cond == nil {
		q.cond = sync.NewCond(&q.mu)
	}
}

// Put appends p, which is the queue's from now on. It waits while too much is
// there.
func (q *Queue) Put(p []byte) {
	q.lock()
	defer q.mu.Unlock()
	for q.size > maxQueue && q.err == nil {
		q.cond.Wait()
	}
	if q.err == nil {
		q.parts, q.size = append(q.parts, p), q.size+len(p)
	}
	q.cond.Broadcast()
}

// End says that nothing more comes: Read gives err, io.EOF if that is nil, when all
// was read. The first one counts.
func (q *Queue) End(err error) {
	q.lock()
	defer q.mu.Unlock()
	if err == nil {
		err = io.EOF
	}
	if q.err == nil {
		q.err = err
	}
	q.cond.Broadcast()
}

// Drop is an end that is seen at once: what was not read is gone.
func (q *Queue) Drop(err error) {
	q.lock()
	q.parts, q.size, q.err = nil, 0, err
	q.cond.Broadcast()
	q.mu.Unlock()
}

// Read waits for something.
func (q *Queue) Read(p []byte) (int, error) {
	q.lock()
	defer q.mu.Unlock()
	for len(q.parts) == 0 && q.err == nil {
		q.cond.Wait()
	}
	if len(q.parts) == 0 {
		return 0, q.err
	}
	n := copy(p, q.parts[0])
	if q.parts[0] = q.parts[0][n:]; len(q.parts[0]) == 0 {
		q.parts = q.parts[1:]
	}
	q.size -= n
	q.cond.Broadcast()
	return n, nil
}
