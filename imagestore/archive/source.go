package archive

import (
	"errors"
	"io"
	"os"
)

// source is an open file, directory or standard input.
type source struct {
	r   io.Reader
	dir *os.Root
	f   *os.File
}

func (s *source) Close() {
	if s.dir != nil {
		s.dir.Close()
	}
	if s.f != nil {
		s.f.Close()
	}
}

func openSource(src string, stdin io.Reader, p Progress) (*source, error) {
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
	return &source{r: counted(f, total, p), f: f}, nil
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
