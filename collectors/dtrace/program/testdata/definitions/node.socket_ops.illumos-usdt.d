# by  where true
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
node*:::net-socket-read,
node*:::net-socket-write {
  @total[""] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printf("E\n");
  trunc(@total);
}

# by execname, pid, ppid, raddr, rport, size where execname != "x" && pid != "17" && psargs != "x" && ppid != "17" && pexecname != "x" && ppsargs != "x" && optype != "read" && raddr != "10.0.0.1" && rport != "17" && size >= 5 && buffered >= 5
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
node*:::net-socket-read,
node*:::net-socket-write /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002"))/ {
  this->f_size = (uint64_t)(arg1);
  this->f_buffered = (uint64_t)((+args[0]->bufferSize));
  this->step = (uint64_t)((((this->f_size < 1) || (this->f_size >= 1000000000000)) ? 0 : ((this->f_size < 1000000) ? ((this->f_size < 1000) ? ((this->f_size < 100) ? 1 : 10) : ((this->f_size < 10000) ? 100 : ((this->f_size < 100000) ? 1000 : 10000))) : ((this->f_size < 1000000000) ? ((this->f_size < 10000000) ? 100000 : ((this->f_size < 100000000) ? 1000000 : 10000000)) : ((this->f_size < 10000000000) ? 100000000 : ((this->f_size < 100000000000) ? 1000000000 : 10000000000))))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_size / this->step) * this->step) : ((this->f_size < 1) ? 0 : 1000000000000)));
}
node*:::net-socket-read,
node*:::net-socket-write /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && ((probename == "net-socket-read" ? "read" : "write") != "read") && ((args[0]->remoteAddress) != "10.0.0.1") && ((uint64_t)((+args[0]->remotePort)) != 17) && (this->f_size >= 5) && (this->f_buffered >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(ppid), (uint64_t)((+args[0]->remotePort)), (args[0]->remoteAddress), (execname)] = count();
  @total[zonename] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%u\t%u\t%u\t%S\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

