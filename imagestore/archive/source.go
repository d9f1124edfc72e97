package archive

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/minirun/minirun/imagestore"
)

// source is an open file, directory or standard input.
type source struct {
	r    io.Reader
	dir  *os.Root
	f    *os.File
	stop func() bool
}

func (s *source) Close() {
	if s.dir != nil {
		s.dir.Close()
	}
	if s.f != nil {
		s.stop()
		s.f.Close()
	}
}

// openSource opens src. Reading from a pipe that was named as a file ends with ctx.
func openSource(ctx context.Context, src string, stdin io.Reader, p Progress) (*source, error) {
	if src == "-" {
		if stdin == nil {
			return nil, errors.New("there is no standard input")
		}
		return &source{r: counted(stdin, 0, p)}, nil
	}
	st, err := os.Stat(src)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if st.IsDir() {
		dir, err := os.OpenRoot(src)
		if err != nil {
			return nil, err
		}
		return &source{dir: dir}, nil
	}
	f, err := os.Open(src)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	total := int64(0)
	if st.Mode().IsRegular() {
		total = st.Size()
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) }) // files that cannot wait refuse it
	return &source{r: imagestore.ContextReader(ctx, counted(f, total, p)), f: f, stop: stop}, nil
}

func counted(r io.Reader, total int64, p Progress) io.Reader {
	if p == nil {
		return r
	}
	return &countReader{r: r, total: total, p: p}
}

type countReader struct {
	r        io.Reader
	n, total int64
	p        Progress
}

func (c *countReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.p(c.n, c.total)
	return n, err
}
