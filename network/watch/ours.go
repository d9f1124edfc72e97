package watch

import (
	"strings"

	"github.com/minirun/minirun/internal/linux"
)

// ByProgram tells changes by minirun, minirund and this very program from those of
// others: networks are changed by many processes.
func ByProgram() func(port uint32, program string) bool {
	b, _ := linux.ReadFile("/proc/self/comm", 64)
	self := strings.TrimSpace(string(b))
	return func(_ uint32, program string) bool {
		return program == "minirun" || program == "minirund" || program == self && self != ""
	}
}
