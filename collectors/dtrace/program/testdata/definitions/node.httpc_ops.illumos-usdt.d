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
node*:::http-client-request {
  s_method[pid, args[1]->fd] = args[0]->method;
  s_t0[pid, args[1]->fd] = timestamp;
  s_url[pid, args[1]->fd] = args[0]->url;
}
node*:::http-client-response /(s_method[pid, args[0]->fd] != NULL) && (s_t0[pid, args[0]->fd] != 0) && (s_url[pid, args[0]->fd] != NULL)/ {
  @total[""] = count();
}
node*:::http-client-response /(s_method[pid, args[0]->fd] != NULL) && (s_t0[pid, args[0]->fd] != 0) && (s_url[pid, args[0]->fd] != NULL)/ {
  s_method[pid, args[0]->fd] = 0;
  s_t0[pid, args[0]->fd] = 0;
  s_url[pid, args[0]->fd] = 0;
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

# by execname, pid, ppid, raddr, rport, latency where execname != "x" && pid != "17" && psargs != "x" && ppid != "17" && pexecname != "x" && ppsargs != "x" && http_method != "x" && http_url != "x" && http_path != "x" && raddr != "10.0.0.1" && rport != "17" && latency >= 5
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
node*:::http-client-request /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && ((args[0]->method) != "x") && ((args[0]->url) != "x") && ((strtok(args[0]->url, "?")) != "x")/ {
  s_method[pid, args[1]->fd] = args[0]->method;
  z_method[pid, args[1]->fd] = zonename;
  s_t0[pid, args[1]->fd] = timestamp;
  s_url[pid, args[1]->fd] = args[0]->url;
}
node*:::http-client-response /(s_method[pid, args[0]->fd] != NULL) && (s_t0[pid, args[0]->fd] != 0) && (s_url[pid, args[0]->fd] != NULL)/ {
  this->f_latency = (uint64_t)(timestamp - s_t0[pid, (+args[0]->fd)]);
  this->step = (uint64_t)((((this->f_latency < 1000) || (this->f_latency >= 1000000000000)) ? 0 : ((this->f_latency < 10000000) ? ((this->f_latency < 100000) ? ((this->f_latency < 10000) ? 100 : 1000) : ((this->f_latency < 1000000) ? 10000 : 100000)) : ((this->f_latency < 1000000000) ? ((this->f_latency < 100000000) ? 1000000 : 10000000) : ((this->f_latency < 10000000000) ? 100000000 : ((this->f_latency < 100000000000) ? 1000000000 : 10000000000))))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_latency / this->step) * this->step) : ((this->f_latency < 1000) ? 0 : 1000000000000)));
}
node*:::http-client-response /(s_method[pid, args[0]->fd] != NULL) && (s_t0[pid, args[0]->fd] != 0) && (s_url[pid, args[0]->fd] != NULL) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x") && ((s_method[pid, args[0]->fd]) != "x") && ((s_url[pid, args[0]->fd]) != "x") && ((strtok(s_url[pid, args[0]->fd], "?")) != "x") && ((args[0]->remoteAddress) != "10.0.0.1") && ((uint64_t)((+args[0]->remotePort)) != 17) && (this->f_latency >= 5)/ {
  @rows[z_method[pid, args[0]->fd], this->low, (uint64_t)(pid), (uint64_t)(ppid), (uint64_t)((+args[0]->remotePort)), (args[0]->remoteAddress), (execname)] = count();
  @total[z_method[pid, args[0]->fd]] = count();
}
node*:::http-client-response /(s_method[pid, args[0]->fd] != NULL) && (s_t0[pid, args[0]->fd] != 0) && (s_url[pid, args[0]->fd] != NULL)/ {
  s_method[pid, args[0]->fd] = 0;
  z_method[pid, args[0]->fd] = 0;
  s_t0[pid, args[0]->fd] = 0;
  s_url[pid, args[0]->fd] = 0;
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

