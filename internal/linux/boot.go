package linux

// BootID is the kernel's identifier of the current boot, see random(4).
func BootID() (string, error) {
	b, err := ReadFile("/proc/sys/kernel/random/boot_id", 64)
	if err != nil {
		return "", err
	}
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b), nil
}
